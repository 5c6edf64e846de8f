// Package deploy checks what no compiler sees: that the manifests of k8s/ decode strictly and agree with each other,
// that each service has its manifest, image and Tilt entry, and that the Tiltfile does what it says. It has only tests.
package deploy
