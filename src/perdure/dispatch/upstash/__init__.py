"""The server's side of the workflow protocol that `@upstash/workflow` and `upstash-workflow` speak."""
