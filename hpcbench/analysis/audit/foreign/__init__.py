"""Tables that somebody else has made: reading them without trusting them, and judging what they say."""
