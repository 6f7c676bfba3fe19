package kbs

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"
)

// Query parameters of a GET of a resource, an addition of Coffer's, and the header
// that tells which version of a secret the answer has.
const (
	QueryVersion  = "version" // number: that version and no other
	QueryAfter    = "after"   // number: a version newer than that
	QueryWait     = "wait"    // seconds to wait for one, at most MaxWait
	VersionHeader = "Coffer-Secret-Version"
)

// MaxWait is the longest wait for a new version in one request.
const MaxWait = 30 * time.Second

// VersionQuery says which version of a secret is asked for. Zero: the newest.
type VersionQuery struct {
	Version, After uint64
	Wait           time.Duration // only with After
}

// ParseVersionQuery reads the parameters of a raw query that concern versions. What
// else is in it is left to whoever knows it, as published.
func ParseVersionQuery(raw string) (*VersionQuery, error) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, errors.New("query is malformed")
	}
	var n [3]uint64
	for i, name := range []string{QueryVersion, QueryAfter, QueryWait} {
		v, ok := q[name]
		if !ok {
			continue
		}
		if len(v) != 1 {
			return nil, errors.New(name + " is given more than once")
		}
		if n[i], err = strconv.ParseUint(v[0], 10, 64); err != nil || n[i] == 0 {
			return nil, errors.New(name + " is not a positive number")
		}
	}
	switch {
	case n[0] != 0 && n[1] != 0:
		return nil, errors.New("version and after exclude each other")
	case n[2] != 0 && n[1] == 0:
		return nil, errors.New("wait needs after: the version that is known")
	case n[2] > uint64(MaxWait/time.Second):
		return nil, fmt.Errorf("wait is at most %d seconds", MaxWait/time.Second)
	}
	return &VersionQuery{n[0], n[1], time.Duration(n[2]) * time.Second}, nil
}

// Encode gives the query, "" for the newest version.
func (v *VersionQuery) Encode() string {
	q := url.Values{}
	for name, n := range map[string]uint64{QueryVersion: v.Version, QueryAfter: v.After, QueryWait: uint64(v.Wait / time.Second)} {
		if n != 0 {
			q.Set(name, strconv.FormatUint(n, 10))
		}
	}
	return q.Encode()
}
