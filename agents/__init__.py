"""Who proposes: policies, classic and learned, behind the one `Policy` protocol."""
