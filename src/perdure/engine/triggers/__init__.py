"""What starts runs by itself: schedules and events; and webhooks, which tell the outside."""
