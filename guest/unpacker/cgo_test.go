//go:build cgo

package unpacker

const cgo = true
