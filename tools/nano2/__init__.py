"""Recipe that trains `nano2` from nothing: generated pictures first, then generated clips."""
