"""Temporary 2D loads."""
import numpy as np
from harness.simulator.tensor_map import TensorMap, Swizzle
def load(tm, memory, coords, offsets):
    bits=tm.data_type.shared_bits
    w=tm.box[0]*bits//8; rows=tm.box[1]; G=len(coords)
    total=tm.strides[0]*(tm.extents[1]-1)+tm.extents[0]*bits//8
    src=memory.array(tm.address,total)
    col=coords[:,0]*bits//8
    n=w//16
    r=np.arange(rows)[None,:]+coords[:,1:2]
    ok=(r<tm.extents[1])
    cells=src[:len(src)//16*16].view(np.complex128)
    idx=(np.where(ok,r,0)*(tm.strides[0]//16))[:,:,None]+(col//16)[:,None,None]+np.arange(n)
    okc=ok[:,:,None]&((col[:,None,None]+16*np.arange(n))<tm.extents[0]*bits//8)
    out=np.where(okc,cells[np.where(okc,idx,0)],0)
    out=out.reshape(G,rows*n)
    # swizzle
    span=tm.swizzle.span_bytes
    lin=(offsets[:,None]//16+np.arange(rows*n))
    if span>16:
        mask=span//16-1
        dst=lin^((lin>>3)&mask)
    else: dst=lin
    perm=dst-offsets[:,None]//16
    res=np.empty_like(out); np.put_along_axis(res,perm,out,1)
    return res.view(np.uint8).reshape(G,-1,16)
