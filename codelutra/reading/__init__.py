"""Files that people write by hand or bring along. Any content gives data, or one `Unreadable` that says file and place."""
