"""Lines to restore: translated documentation in ten languages, from Debian packages."""
