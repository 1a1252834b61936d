"""What files and folders of ours turn out to be when they are read through."""
