// Package npy knows NumPy's types and the header of its files: what stands
// there, as bytes and as Go types. The format is NumPy's own (NEP 1 and the
// documentation of numpy.lib.format), versions 1.0 to 3.0.
//
// Nothing of a header is evaluated; what is no plain literal is refused.
package npy
