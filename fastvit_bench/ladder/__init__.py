"""The precision ladder: one network in every precision of a device, with what each costs in accuracy."""
