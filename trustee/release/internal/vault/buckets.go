package vault

// Held is the bucket of a namespace that has one key for each secret.
const Held = metas

// Buckets are those of a namespace, to be emptied when it is deleted: ciphertexts first.
func Buckets() []string { return []string{content, versions, metas, lasts} }
