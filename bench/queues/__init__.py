"""Tasks on queues, beside the queues that people use for them today: from enqueueing to execution, at two workers."""
