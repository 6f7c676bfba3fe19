package boot

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// FloorFile is the part of the guest image that holds the source revision's date.
const FloorFile = "/etc/coffer/floor"

// Floor gives the date before which it cannot be (design.md section 4, Time).
func Floor() (time.Time, error) {
	b, err := os.ReadFile(FloorFile)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the guest image's date: %w", err)
	}
	s, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || s <= 0 {
		return time.Time{}, fmt.Errorf("reading the guest image's date: %s is malformed", FloorFile)
	}
	return time.Unix(s, 0), nil
}
