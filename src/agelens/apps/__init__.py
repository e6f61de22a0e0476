"""What people start: parsing and printing, no logic."""
