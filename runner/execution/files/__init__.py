"""The files of a job, on their way into its working folder and out of it."""
