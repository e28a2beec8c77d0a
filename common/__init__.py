"""What has no idea of networks or training: files, images, devices, configuration, console."""
