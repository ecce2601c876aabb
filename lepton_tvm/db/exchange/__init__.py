"""Records that leave a database or come from another one: export, import, merge."""
