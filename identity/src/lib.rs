//! Who is speaking, proven: the CA, SPIFFE certificates, trust bundles and rustls configurations.
