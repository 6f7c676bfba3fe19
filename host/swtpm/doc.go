// Package swtpm gives a VM a software TPM 2.0 of its own: fresh seeds, an
// endorsement key with a certificate under a CA of this machine, and state that
// is encrypted under a key nobody keeps.
//
// It manufactures the TPM itself instead of running swtpm_setup and
// swtpm_localca: the same result (TCG EK Credential Profile 2.5: ECC P-384 key
// of the high range template, certificate in NV 0x01c00016, key persistent at
// 0x81010016, SHA-256 bank only) in a fraction of the time, without four more
// programs and a second CA.
//
// Trust zone: host. A software TPM protects nothing: the host owns it. The CA is
// therefore called simulated wherever it is shown, and a trustee accepts it only
// in namespaces made for simulation.
package swtpm
