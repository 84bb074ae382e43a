"""Who does the work: processes, devices and machines, threads that work ahead, and what is printed meanwhile."""
