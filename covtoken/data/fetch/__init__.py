"""Get data sets: the table of those known, a download that resumes, archives unpacked with care."""
