"""Read a data set or layout, one a file, as a Cohort."""
