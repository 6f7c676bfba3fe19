//go:build !cgo

package unpacker

const cgo = false
