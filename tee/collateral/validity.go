package collateral

import "time"

// Validity is what a document says of its own time, after its signatures were
// checked.
type Validity struct {
	// Issued orders two issues of one document.
	Issued time.Time
	// Until is its next update, or the end of a certificate.
	Until time.Time
	// Immutable documents never have another issue: certificates.
	Immutable bool
}
