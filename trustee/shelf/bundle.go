package shelf

import (
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/tee/collateral"
)

// Items gives what is at hand, by origin. It must not be changed.
func (h *Shelf) Items() []*collateral.Item { return h.set.Load().Items() }

// Bundle gives the items whose origins begin with a prefix, for another trustee.
func (h *Shelf) Bundle(prefix string) ([]byte, error) {
	var some []*collateral.Item
	for _, it := range h.Items() {
		if strings.HasPrefix(it.Origin, prefix) {
			some = append(some, it)
		}
	}
	b, err := collateral.NewSet(some...).Encode()
	if err == nil && (len(b) > collateral.MaxBundle || len(some) > collateral.MaxItems) {
		err = fmt.Errorf("%w: %d items in %d bytes, at most %d in %d: ask for those of one vendor", ErrTooLarge, len(some), len(b), collateral.MaxItems, collateral.MaxBundle)
	}
	return b, err
}
