// Package sev is the owner's side of a launch secret of SEV and SEV-ES, by the SEV API
// specification (AMD 55766): the platform's certificates, the session that wraps keys
// for its secure processor, the launch measurement, and the packet that carries a
// secret into the measured guest. SPEC.md has the bytes.
//
// Nothing here trusts the host: a session is made only for a platform whose chain
// ends in the given ARK, a packet only for a measurement that the session's own key
// verifies.
//
// Trust zone: the data owner's tools. The certificates and the measurement come from
// the host.
package sev
