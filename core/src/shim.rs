//! The decisions of the process that owns one attempt, and the words that it speaks with the agent.
