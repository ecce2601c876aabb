"""What a database shows: the overview, one record by its name, and why a record is not used."""
