"""Recipe that trains the `nano` backbone from nothing on generated pictures."""
