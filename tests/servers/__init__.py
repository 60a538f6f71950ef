"""What only a real server shows. The apps are in ``apps``."""
