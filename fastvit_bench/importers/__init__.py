"""Import of measurements by Xcode and trtexec."""
