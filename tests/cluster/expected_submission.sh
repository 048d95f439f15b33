#!/bin/bash

# Parameters
#SBATCH --licenses=fs
#SBATCH --account=physics
#SBATCH --constraint='a&b'
#SBATCH --cpus-per-task=32
#SBATCH --exclude='n[1-2]'
#SBATCH --exclusive
#SBATCH --gres=gpu:rtx4090:4
#SBATCH --job-name=sweep-1
#SBATCH --mem=64G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/r/log/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --reservation=r
#SBATCH --signal=USR2@90
#SBATCH --time=62

# setup
export NCCL_IB_HCA='^mlx5'
module load cuda

# command
srun --unbuffered --output /r/log/%j_%t_log.out --cpu-bind=none --kill-on-bad-exit=1 python x
