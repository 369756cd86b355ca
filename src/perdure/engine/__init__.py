"""The shell around the core: time, tasks, threads and the store, put together as a client and a worker."""
