"""segkit: adapt frozen SAM and SAM 2 to medical images, volumes and videos."""
