package intel

import "fmt"

// Status is a TCB status as Intel publishes it.
type Status string

// Values of Status.
const (
	StatusUpToDate                  Status = "UpToDate"
	StatusSWHardeningNeeded         Status = "SWHardeningNeeded"
	StatusConfigurationNeeded       Status = "ConfigurationNeeded"
	StatusConfigurationAndHardening Status = "ConfigurationAndSWHardeningNeeded"
	StatusOutOfDate                 Status = "OutOfDate"
	StatusOutOfDateConfiguration    Status = "OutOfDateConfigurationNeeded"
	StatusRevoked                   Status = "Revoked"
	// Never in collateral, only concluded:
	StatusRelaunchAdvised       Status = "TDRelaunchAdvised"
	StatusRelaunchConfiguration Status = "TDRelaunchAdvisedConfigurationNeeded"
)

func (s Status) valid() error {
	switch s {
	case StatusUpToDate, StatusSWHardeningNeeded, StatusConfigurationNeeded, StatusConfigurationAndHardening, StatusOutOfDate, StatusOutOfDateConfiguration, StatusRevoked:
		return nil
	}
	return fmt.Errorf("TCB status %q is unknown", string(s))
}

func (s Status) needsConfiguration() bool {
	switch s {
	case StatusConfigurationNeeded, StatusConfigurationAndHardening, StatusOutOfDateConfiguration, StatusRelaunchConfiguration:
		return true
	}
	return false
}

func (s Status) outOfDate() bool { return s == StatusOutOfDate || s == StatusOutOfDateConfiguration }

// with lowers a platform's status by that of its QE or its TDX module, as
// Intel's Quote Verification Library does: what is out of date makes the whole
// out of date, what is revoked the whole revoked.
func (s Status) with(other Status) Status {
	switch {
	case s == StatusRevoked || other == StatusRevoked:
		return StatusRevoked
	case !other.outOfDate():
		if other.needsConfiguration() && !s.needsConfiguration() {
			return s.configuration()
		}
		return s
	case s.needsConfiguration() || other.needsConfiguration():
		return StatusOutOfDateConfiguration
	}
	return StatusOutOfDate
}

func (s Status) configuration() Status {
	switch s {
	case StatusUpToDate:
		return StatusConfigurationNeeded
	case StatusSWHardeningNeeded:
		return StatusConfigurationAndHardening
	case StatusOutOfDate:
		return StatusOutOfDateConfiguration
	}
	return s
}
