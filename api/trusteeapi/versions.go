package trusteeapi

import (
	"errors"
	"fmt"
	"regexp"
	"time"
)

// SecretVersion is the metadata of one version of a secret. Numbers are never used
// again, not even after the secret was deleted.
type SecretVersion struct {
	Version uint64    `json:"version"`
	Size    int       `json:"size"` // bytes
	Created time.Time `json:"created"`
	Actor   string    `json:"actor,omitempty"` // key id of who stored it
	// Expires is when nobody gets this version any more; zero: never.
	Expires time.Time `json:"expires,omitzero"`
	// Deleted is set by a soft delete, which can be taken back; Destroyed says that
	// the content is gone.
	Deleted   time.Time `json:"deleted,omitzero"`
	Destroyed time.Time `json:"destroyed,omitzero"`
	// RestoredFrom is the version of which a rollback took the content.
	RestoredFrom uint64            `json:"restored_from,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
}

// History is a secret with its versions, the newest first.
type History struct {
	Resource
	Versions []SecretVersion `json:"versions"`
}

// Changes of one version.
const (
	ChangeDelete   = "delete"   // nobody gets it; the content stays
	ChangeUndelete = "undelete" // takes that back
	ChangeDestroy  = "destroy"  // the content goes, for good
	ChangeRollback = "rollback" // its content becomes a new version
	ChangeExpiry   = "expiry"   // sets when it expires
)

// VersionChange is the body of a change; Expires is for ChangeExpiry alone, where
// zero means never.
type VersionChange struct {
	Expires time.Time `json:"expires,omitzero"`
}

// Query parameters of a PUT of a secret.
const (
	QueryExpires        = "expires"         // RFC 3339: when the new version expires
	QueryExpirePrevious = "expire-previous" // RFC 3339: when the older ones expire, if not before
	QueryIfVersion      = "if-version"      // number: only if that is the newest version; 0: if there is none
	QueryLabel          = "label"           // name=value, may be repeated
)

// Limits of labels.
const (
	MaxLabels     = 16
	maxLabelValue = 256
)

var labelRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?$`)

// CheckLabels reports labels that no secret can have.
func CheckLabels(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return fmt.Errorf("%d labels, at most %d", len(labels), MaxLabels)
	}
	for k, v := range labels {
		if !labelRE.MatchString(k) {
			return fmt.Errorf("label %.80q is not of a-z 0-9 . _ / -, at most 63 of them", k)
		}
		if len(v) > maxLabelValue {
			return errors.New("label " + k + ": value too long")
		}
	}
	return nil
}
