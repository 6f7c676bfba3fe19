package main

import (
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/host/simhw"
)

// register gives the launch-bound register of size bytes: the digest of the
// document that is on the running machine's disk, or zeros.
func register(tee launch.TEE, in *simhw.Inputs, size int) ([]byte, error) {
	if in.Initdata == nil {
		return make([]byte, size), nil
	}
	alg, err := initdata.AlgorithmFor(tee.Wire())
	if err != nil {
		return nil, err
	}
	sum, err := initdata.Digest(alg, in.Initdata)
	if err != nil {
		return nil, err
	}
	return initdata.Fit(sum, size), nil
}
