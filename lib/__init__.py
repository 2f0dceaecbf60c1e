"""Every technique of the survey, one file each, on a small shared ground floor."""
