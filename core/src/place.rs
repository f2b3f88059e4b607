//! Which nodes a job gets, and a reason for each job that is left waiting.
