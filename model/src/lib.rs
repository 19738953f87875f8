//! Every noun of Tribune, and every rule that is a function of nouns alone.
