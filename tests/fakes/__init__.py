"""Stand-ins for hardware and for what vendors ship; README.md says what each was held against."""
