"""Files, geometry and samples; a module that imports MONAI makes torchvision importable first."""
