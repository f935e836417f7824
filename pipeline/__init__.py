"""What nodes, command line and trainers share: colour, geometry, upsampling, finishing, files."""
