"""Readers: one data set or layout a file, each gives a Cohort."""
