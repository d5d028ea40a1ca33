"""Parts of the SegKit extension; only `scene` knows MRML, nothing here knows Qt."""
