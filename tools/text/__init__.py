"""The vision-language model `nano_clip`: captioned pictures, training, export, fine-tuning."""
