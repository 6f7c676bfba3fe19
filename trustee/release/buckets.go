package release

import "github.com/cofferproject/coffer/trustee/release/internal/vault"

// Held is the bucket of a namespace that has one key for each secret.
const Held = vault.Held

// Buckets are those of a namespace that hold secrets, to be emptied when it is deleted.
func Buckets() []string { return vault.Buckets() }
