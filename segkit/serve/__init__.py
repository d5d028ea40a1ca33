"""`segkit serve`: one engine behind the nnInteractive, MONAI Label and segkit protocols."""
