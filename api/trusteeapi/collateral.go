package trusteeapi

import "time"

// CollateralStatus says how current the collateral is that has issues, and how
// fetching it goes.
type CollateralStatus struct {
	// Vendors are those from which this trustee fetches.
	Vendors []CollateralVendor `json:"vendors"`
	// Items are at hand, or would be if fetching them had succeeded.
	Items []CollateralState `json:"items"`
	// Wanted is what verifiers missed and what will be fetched, or could not be.
	Wanted []CollateralState `json:"wanted"`
}

// CollateralWanted names documents that are to be fetched.
type CollateralWanted struct {
	Origins []string `json:"origins"`
}

// CollateralVendor is one publisher, as all replicas see it.
type CollateralVendor struct {
	Name  string `json:"name"`
	Place string `json:"place"` // URL
	// Next is when it may be asked again; Failures counts those since its last answer.
	Next     time.Time `json:"next,omitzero"`
	Failures int       `json:"failures,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// CollateralState is the state of one document.
type CollateralState struct {
	Origin string `json:"origin"`
	Vendor string `json:"vendor"`
	// Missing: it is not at hand. Expired: it is past its next update, or cannot be
	// verified.
	Missing bool      `json:"missing,omitempty"`
	Expired bool      `json:"expired,omitempty"`
	Issued  time.Time `json:"issued,omitzero"`
	Until   time.Time `json:"until,omitzero"`
	Fetched time.Time `json:"fetched,omitzero"`
	Since   time.Time `json:"since,omitzero"` // when it was missed
	// The last attempt to fetch it, and the next.
	Tried    time.Time `json:"tried,omitzero"`
	Next     time.Time `json:"next,omitzero"`
	Failures int       `json:"failures,omitempty"`
	Outcome  string    `json:"outcome,omitempty"`
	Error    string    `json:"error,omitempty"`
}
