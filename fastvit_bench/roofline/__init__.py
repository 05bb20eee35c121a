"""Peak rates of a device, and the share of them that each cell reaches."""
