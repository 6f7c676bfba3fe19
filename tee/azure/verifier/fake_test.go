package verifier

import (
	"time"

	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/verify"
)

// fakeHardware vouches for whatever report data the test says.
type fakeHardware struct{ reportData []byte }

func (f fakeHardware) verify(*azure.Evidence, *azure.HCL, time.Time, *verify.Result) ([]byte, error) {
	return f.reportData, nil
}
