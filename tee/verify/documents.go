package verify

import (
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/internal/lru"
)

// Limits of the parsed documents that are kept: replicas of a workload bring the same
// one, each of them several times an hour.
const (
	maxDocuments = 32
	maxDocument  = 64 << 10 // bytes; a longer one is parsed each time
)

// documents are by algorithm and digest of their bytes. A document is what its bytes
// say and nothing else, whoever brought them, so all verifiers share them; only those
// that a TEE has measured are kept, and nobody changes one.
var documents = lru.New[string, *initdata.Document](maxDocuments)

// parseInitdata parses a document, the digest of which is sum.
func parseInitdata(alg initdata.Algorithm, sum, plain []byte) (*initdata.Document, error) {
	key := string(alg) + ":" + string(sum)
	if d, ok := documents.Get(key); ok {
		return d, nil
	}
	d, err := initdata.Parse(plain)
	if err == nil && len(plain) <= maxDocument {
		documents.Put(key, d)
	}
	return d, err
}
